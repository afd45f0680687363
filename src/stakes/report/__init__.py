"""From rows and files to pages and figures."""
