"""Sources of a network's preprocessing: the file, the files beside it, presets, labelled pictures."""
