"""From a finding to an image: heatmap, arrow, caption, contour."""
