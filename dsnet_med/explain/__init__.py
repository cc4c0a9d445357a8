"""What the plug-ins of a network compute on real volumes, and what becomes of the masks without them."""
