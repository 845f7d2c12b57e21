"""The one compiled part: where no compiler is found it is left out, and everything works without.

`-ffp-contract=off`: the kernels give the bits of what they replace, on every processor.
"""

from setuptools import Extension, setup

setup(
    ext_modules=[
        Extension(
            "deitkit.augmentation._kernels",
            ["src/deitkit/augmentation/kernels.c"],
            extra_compile_args=["-O3", "-std=c11", "-ffp-contract=off", "-Wno-psabi"],
            optional=True,
        )
    ]
)
