"""Draw a finding as an image: heatmap, arrow, caption, contour."""
