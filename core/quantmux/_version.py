"""The version: read by the build from here, so that it has one home and needs no import."""

__version__ = "0.1.0"
