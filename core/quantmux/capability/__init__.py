"""What can be done: arch sets, device profiles, capabilities, rejections, evidence, the matrix.

Imports config only.
"""

from quantmux.capability.arch import Arch, ArchSet, arch_sets
from quantmux.capability.capability import OPS, Capability, Needs, OperandOffer, SchemeOffer
from quantmux.capability.detect import detect_devices, resolve_device
from quantmux.capability.device import DeviceProfile
from quantmux.capability.evidence import Evidence, EvidenceLevel
from quantmux.capability.matrix import MatrixRow
from quantmux.capability.profiles import PROFILES
from quantmux.capability.rejection import Rejection, RejectionCode

__all__ = [
    "OPS",
    "PROFILES",
    "Arch",
    "ArchSet",
    "Capability",
    "DeviceProfile",
    "Evidence",
    "EvidenceLevel",
    "MatrixRow",
    "Needs",
    "OperandOffer",
    "Rejection",
    "RejectionCode",
    "SchemeOffer",
    "arch_sets",
    "detect_devices",
    "resolve_device",
]
