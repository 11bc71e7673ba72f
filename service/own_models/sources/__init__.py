"""What says how a network wants its images: the file, what lies beside it, presets, labelled pictures."""
