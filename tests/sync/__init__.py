"""Both layers as synchronous code calls them: through short-lived event loops, and through `layer.sync`."""
