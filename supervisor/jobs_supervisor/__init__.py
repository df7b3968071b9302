"""The daemon: it decides, writes down, launches through the fork server, and lets people watch."""
