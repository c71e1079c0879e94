"""The command line, one thin module per command; `main` puts them together."""
