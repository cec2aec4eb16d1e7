"""Processor, memory, disks and network of this machine, on a schedule."""
