"""Doing it: prepare, bind, warm up, fall back; events, quarantine, cached selections."""
