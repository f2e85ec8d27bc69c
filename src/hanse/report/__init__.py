"""What a run leaves for people: one HTML file, comparisons, and bridges to other tools."""
