"""Make a trained image classifier forget given pictures, and show the evidence."""
