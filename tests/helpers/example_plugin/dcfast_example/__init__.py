"""An example of a package that brings plugins to dcfast (docs/plugins.md)."""
