"""Questions about recorded latency, answered from the recorder's memory and the store together."""
