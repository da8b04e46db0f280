"""What a paper is written against."""

import warnings

from repertory.core import imports

# Meant for timm, which compiles with it; our users can do nothing about it.
warnings.filterwarnings("ignore", message="`torch.jit.script` is deprecated")
imports.install()
