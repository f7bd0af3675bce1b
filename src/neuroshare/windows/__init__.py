"""Who is paired with whom: windows of several subjects as an index over their trials."""
