"""Which model fits, from the measurements that count on this machine."""
