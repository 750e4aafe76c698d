"""Response Matching for AiiDA: generate molecules and crystals from a few stable structures."""

__version__ = "0.1.0"
