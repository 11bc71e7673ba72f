"""Functions for untrusted text: parse URLs, origins and environment variables; escape text for display."""
