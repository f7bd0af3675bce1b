"""Models of several subjects: labelled windows in, labelled latents and counts out."""
