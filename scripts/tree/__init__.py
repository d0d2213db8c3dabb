"""Fetch, assemble, configure and export the QEMU tree COLO is built in."""
