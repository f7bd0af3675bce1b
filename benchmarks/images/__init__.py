"""The image suites of the literature on the public core of neuroshare."""
