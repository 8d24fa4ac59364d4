"""Who is here: the plugin contract, guarded discovery, the status of each plugin.

Imports config and capability only.
"""
