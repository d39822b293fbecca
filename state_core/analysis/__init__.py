"""Pictures and explanations of what a model does; nothing in the model knows this package."""
