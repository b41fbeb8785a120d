"""Which packages a wheel holds; everything else stands in setup.cfg.

`tools` and `recipes` are top-level packages in a clone only. A wheel holds them as `siglip_tf.tools` and
`siglip_tf.recipes`, since such common names would meet others in site-packages.
"""

from setuptools import find_packages, setup

inside = find_packages(include=["recipes", "recipes.*", "tools", "tools.*"])
setup(
    packages=find_packages(include=["siglip_tf", "siglip_tf.*"]) + [f"siglip_tf.{name}" for name in inside],
    package_dir={"siglip_tf.recipes": "recipes", "siglip_tf.tools": "tools"},
)
