"""Why is a model slow here? Each way to be slow has a check of its own that shows evidence and a remedy."""
