"""Scores of labelled arrays: separation, imputation, residuals, and their inference."""
