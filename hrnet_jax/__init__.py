"""HRNet semantic segmentation in JAX: the FCN + HRNetV2p zoo, trained, evaluated and converted."""

__version__ = "0.1.0"
