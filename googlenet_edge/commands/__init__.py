"""The commands of ``gnet-edge``; ``cli.py`` puts them together."""
