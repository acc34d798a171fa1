"""Doors into other libraries; each imports its library only when it is opened."""
