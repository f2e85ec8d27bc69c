"""The pure core: numpy and the standard library only, no I/O, no clock, no hidden state."""
