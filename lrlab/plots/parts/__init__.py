"""Draw the parts around a figure's panels: labels, rail, ribbons, colour bars."""
