"""What every room needs: checks of settings, files that appear whole, work in several processes."""
