"""The building blocks of the towers: layers, initializers, and gradients in closed form.

This package imports nothing from the rest of `siglip_tf`.
"""
