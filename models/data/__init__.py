"""Data sets and photographs, and the scripts that fetch them."""
