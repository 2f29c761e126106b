"""Packages of robotics and AI that are started both ways, with an expression that uses each.

They are in environments of their own where they exclude each other. In an expression, `module` is the
module and `np` is NumPy; its value is what both ways have to find.
"""

from __future__ import annotations

from typing import NamedTuple


class Package(NamedTuple):
    """A package: what pip calls it, the module that is imported, and an expression that uses it.

    ``differs`` are facts that differ by a difference that the manual lists.
    """

    requirement: str
    module: str
    use: str = ""
    differs: tuple[str, ...] = ()


PICTURE = "np.arange(12288, dtype='uint8').reshape(64, 64, 3)"
BLURRED = f"int(module.GaussianBlur(module.resize({PICTURE}, (640, 640)), (9, 9), 3).astype('int64').sum())"
MATRIX = "np.arange(90000.0).reshape(300, 300) % 7 + np.eye(300)"
ARM = "<mujoco><worldbody><body><joint/><geom size='1'/></body></worldbody></mujoco>"

ENVIRONMENTS: dict[str, tuple[Package, ...]] = {
    "gui": (
        Package("opencv-python", "cv2", BLURRED),
        Package("PyQt6", "PyQt6.QtWidgets", "module.QWidget.__name__"),
    ),
    "headless": (
        Package("opencv-python-headless", "cv2", BLURRED),
        Package("PySide6-Essentials", "PySide6.QtWidgets", "module.QWidget.__name__"),
        Package("numexpr", "numexpr", "module.evaluate('1 + 1').item()"),  # others import it if it is there
    ),
    "contrib": (Package("opencv-contrib-python", "cv2", BLURRED),),
    "torch": (
        Package("torch", "torch", "float((module.ones(300, 300) @ module.ones(300, 300)).sum())"),
        Package("torchvision", "torchvision", "module.ops.nms.__name__"),
        # It sets OMP_NUM_THREADS before it imports NumPy.
        Package("ultralytics", "ultralytics", "module.YOLO.__name__", ("threads of OpenMP and BLAS",)),
    ),
    "many": (
        Package("scipy", "scipy.linalg", f"float(module.svdvals({MATRIX})[0].round(6))"),
        Package("pandas", "pandas", "int(module.DataFrame({'a': range(1000)}).a.rolling(3).sum().sum())"),
        Package(
            "matplotlib", "matplotlib.pyplot", "module.plot([1, 2])[0].figure.get_size_inches().tolist()"
        ),
        Package("scikit-image", "skimage.filters", f"float(module.gaussian({MATRIX}, 2).sum().round(6))"),
        Package(
            "scikit-learn",
            "sklearn.cluster",
            f"module.KMeans(3, n_init=1, random_state=0).fit({MATRIX}).labels_.size",
        ),
        Package("pillow", "PIL.Image", f"module.fromarray({PICTURE}).resize((9, 9)).size"),
        Package("imageio", "imageio.v3"),
        Package("onnxruntime", "onnxruntime", "module.get_available_providers()[-1]"),
        Package("ai-edge-litert", "ai_edge_litert.interpreter", "module.Interpreter.__name__"),
        Package("jax", "jax.numpy", "float(module.dot(module.ones(300), module.ones(300)))"),
        Package("numba", "numba", "module.njit(lambda x: x + 1)(2)"),
        Package("mujoco", "mujoco", f'module.MjModel.from_xml_string("{ARM}").nv'),
        Package("pybullet", "pybullet", "module.connect(module.DIRECT)"),
        Package("pin", "pinocchio", "module.buildSampleModelManipulator().nv"),
        Package("gymnasium", "gymnasium", "module.make('CartPole-v1').observation_space.shape"),
        Package("open3d", "open3d", "len(module.geometry.TriangleMesh.create_sphere().vertices)"),
        Package("trimesh", "trimesh", "float(module.creation.box().volume)"),
        Package("casadi", "casadi", "str(module.SX.sym('x') + 1)"),
        Package("transforms3d", "transforms3d.euler", "module.euler2mat(0, 0, 0).tolist()"),
        Package("numpy-quaternion", "quaternion", "str(module.one)"),
        Package("filterpy", "filterpy.kalman", "module.KalmanFilter(2, 1).x.shape"),
        Package("shapely", "shapely.geometry", "module.Point(0, 0).buffer(1).area"),
        Package("networkx", "networkx", "module.diameter(module.path_graph(9))"),
        Package("sympy", "sympy", "str(module.integrate('x'))"),
        Package("pygame", "pygame", "module.Surface((9, 9)).get_size()"),
        Package("av", "av", "'h264' in module.codecs_available"),
        Package("soundfile", "soundfile", "'WAV' in module.available_formats()"),
        Package("librosa", "librosa", "float(module.hz_to_mel(440.0))"),
        Package("pyserial", "serial", "module.Serial().is_open"),
        Package("python-can", "can", "module.Bus('a', interface='virtual').channel_info"),
        Package("dynamixel-sdk", "dynamixel_sdk", "module.PacketHandler(2.0).getProtocolVersion()"),
        Package("pyusb", "usb.core", "module.Device.__name__"),
        Package("smbus2", "smbus2", "module.SMBus.__name__"),
        Package("gpiozero", "gpiozero", "module.LED.__name__"),
        Package("depthai", "depthai", "module.Device.__name__"),
        Package("pyrealsense2", "pyrealsense2", "len(module.context().query_devices())"),
        Package("rerun-sdk", "rerun", "module.Points3D([[0, 0, 0]]).positions is not None"),
        Package("pyzmq", "zmq", "module.Context().socket(module.PUB).type"),
        Package("grpcio", "grpc", "module.insecure_channel('localhost:1').close()"),
        Package("paho-mqtt", "paho.mqtt.client", "module.Client.__name__"),
        Package("websockets", "websockets", "module.__name__"),
        Package("requests", "requests", "module.Request('GET', 'http://a').prepare().url"),
        Package("aiohttp", "aiohttp", "module.ClientTimeout().total"),
        Package("httpx", "httpx", "module.URL('http://a').host"),
        Package("fastapi", "fastapi", "len(module.FastAPI().routes)"),
        Package("pydantic", "pydantic", "module.TypeAdapter(int).validate_python('1')"),
        Package("protobuf", "google.protobuf.message", "module.Message.__name__"),
        Package("pyyaml", "yaml", "module.safe_load('a: 1')"),
        Package("zstandard", "zstandard", "len(module.compress(bytes(999)))"),
        Package("lz4", "lz4.frame", "len(module.compress(bytes(999)))"),
        Package("h5py", "h5py", "module.File('a', 'w', driver='core', backing_store=False).mode"),
        Package("zarr", "zarr", "module.zeros(9).shape"),
        Package("polars", "polars", "module.DataFrame({'a': range(1000)}).sort('a').sum().item()"),
        Package("duckdb", "duckdb", "module.sql('select sum(range) from range(100000)').fetchone()"),
        Package("xarray", "xarray", "float(module.DataArray([1, 2]).sum())"),
        Package("psutil", "psutil", "module.Process().is_running()"),
        Package("loguru", "loguru", "module.logger.level('INFO').no"),
        Package("rich", "rich.table", "module.Table().row_count"),
        Package("tqdm", "tqdm", "sum(module.tqdm(range(9), disable=True))"),
        Package("click", "click", "module.Command('a').name"),
    ),
}
