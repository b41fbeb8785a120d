"""What the towers are made of, and nothing of this project's: layers, initializers and gradients in closed form."""
