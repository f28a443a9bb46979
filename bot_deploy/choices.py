"""Choices and defaults that the command line and the library share.

This module imports nothing, so that `bot --help` stays fast.
"""

# ---- models ----
# which feature is the embedding: after or before BNNeck -> the paper's name (section 3.5), which model files hold
FEATURES = {"after": "fi", "before": "ft"}
METRICS = ("cosine", "euclidean")
NECKS = ("bnneck", "l2norm", "none")
# What a ResNet does between its first convolution and its first stage; the first is torchvision's, trained by us.
STEMS = ("torchvision", "no-relu", "unpadded-pool")
POOLINGS = ("average", "gem")  # gem: generalised mean, whose power is a weight
PRECISIONS = ("fp32", "fp16", "int8")  # of an exported backbone
IMAGE_HEIGHT, IMAGE_WIDTH = 256, 128  # pixels (paper section 2)
MEAN = (0.485, 0.456, 0.406)  # ImageNet's, for RGB in [0, 1] (paper section 2, step 5)
STD = (0.229, 0.224, 0.225)
MAX_IMAGE_SIDE = 4096  # pixels; a larger one is a slip of the keyboard, or damage

# ---- models by name ----
OFFLINE_VARIABLE = "BOT_OFFLINE"  # set it to 1, and nothing is fetched

# ---- data sets ----
SYNTHETIC = "synthetic"  # names the built-in data set
MERGE_SEPARATOR = " + "  # between the sources of a merged data set where they are shown, and in files of old runs

# ---- videos ----
# Files with these ends are taken for videos, and FFmpeg must read them: containers, and streams without one.
VIDEO_SUFFIXES = frozenset(
    {".3g2", ".3gp", ".asf", ".avi", ".dav", ".divx", ".dv", ".f4v", ".flv", ".ivf", ".m2t", ".m2ts", ".m4v"}
    | {".mk3d", ".mkv", ".mov", ".mp4", ".mpe", ".mpeg", ".mpg", ".mts", ".mxf", ".nut", ".ogm", ".ogv", ".qt", ".rm"}
    | {".rmvb", ".tod", ".ts", ".vob", ".webm", ".wmv", ".wtv", ".xvid"}
    | {".264", ".265", ".avc", ".h264", ".h265", ".hevc", ".m1v", ".m2v", ".mjpeg", ".mjpg", ".mpv", ".y4m"}
)

# ---- where a model runs ----
# file suffix -> device -> the module in backends/ that runs such a file there
BACKENDS = {
    ".onnx": {
        "cuda": "onnxruntime",
        "cpu": "onnxruntime",
        "openvino": "openvino",
        "openvino-bf16": "openvino",
    },
    ".engine": {"cuda": "tensorrt"},
    ".xml": {"openvino": "openvino", "openvino-bf16": "openvino"},
    ".pt": {"cuda": "torch", "cpu": "torch"},
}
DEVICES = ("auto", *dict.fromkeys(device for devices in BACKENDS.values() for device in devices))
TRITON = "triton://"  # begins the address of a model on a Triton server: see backends/triton.py
MAX_THREADS = 512  # more help no model, and starting thousands can take longer than the work
MAX_BATCH = 65_536  # images
# "auto" tries these in order; not openvino-bf16, which rounds otherwise.
AUTO_DEVICES = ("cuda", "cpu", "openvino")

# ---- training ----
AUTHORS, PAPER = PROTOCOLS = (
    "authors",
    "paper",
)  # what training follows where they differ: the released code, or the paper
TRAINING_PRECISIONS = ("auto", "bf16", "fp16", "fp32")

# ---- export ----
OPSET = 18  # of ONNX files
ENGINE_BATCH_SIZES = (1, 8, 64)  # of a TensorRT engine: smallest, the one it is tuned for, largest
# what an engine may be built to run on besides the GPU and the version that built it
ENGINE_COMPATIBILITY = ("capability", "ampere", "versions")
TOOLKITS = ("reid-strong-baseline", "fast-reid", "torchreid")  # whose checkpoints `bot import` reads

# programs that `bot export --for` writes a file for; "plain" is any other
CONSUMERS = ("ultralytics", "boxmot", "deepstream", "triton", "opencv", "plain")
INPUT_LAYOUTS = ("uint8-nhwc", "float-nchw")  # of the images that such a file takes; the first is that of model.onnx
INPUT_RANGES = ("0-255", "0-1", "imagenet")  # of its numbers; "imagenet" is (pixel / 255 - MEAN) / STD

COLORS = ("RGB", "BGR")  # channel orders of a model that `bot wrap` takes
PIXEL_RANGES = {"0-255": 1.0, "0-1": 255.0}  # of the pixels that such a model takes -> divisor of our pixels

# ---- matching ----
MIN_TIMESTAMP_S = 1e8  # seconds since 1970; a smaller time of a crop is a frame number
TOP_MATCHES = 10  # of each query
TARGET_FALSE_ACCEPT_RATE = 1e-3

# ---- video, live or not ----
MIN_FPS, MAX_FPS = 1e-3, 1000  # frames per second of a source
EMBED_EVERY_FRAMES = 5  # frames between two embeddings of a track
MAX_BOX_OVERLAP = 0.45  # IoU of two boxes, above which the less certain one is dropped
MIN_PERSON_HEIGHT = 40  # pixels; a smaller crop says little about who it is

# ---- messages ----
MAX_NAMED_FILES = 10  # broken files that messages name, one a line; a hundred thousand lines would hide all others


def device_kind(device: str) -> str:
    """The device without the number of a GPU: "cuda" for "cuda:1"."""
    return device.partition(":")[0]


def gpu_number(device: str) -> int:
    """The number of the GPU `device`: 1 for "cuda:1", 0 for "cuda"."""
    return int(device.partition(":")[2] or 0)


def feature_code(feature: str) -> str:
    """The paper's name of a feature: "fi" for "after", "ft" for "before"; any other word stays as it is."""
    return FEATURES.get(feature, feature)


def feature_name(feature: str) -> str:
    """The name of a feature: "after" for "fi", "before" for "ft"; any other word stays as it is."""
    return {code: name for name, code in FEATURES.items()}.get(feature, feature)
