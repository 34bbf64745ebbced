"""What the shim tells of adapters for RDMA, which few machines have."""

from pyrunc.protobuf import decode, encode
from pyrunc.shim.metrics import V2, rdma


def test_rdma_as_containerd_has_it(tmp_path):
    (tmp_path / "rdma.current").write_text("mlx4_0 hca_handle=2 hca_object=2000\nocrdma1 hca_handle=0 hca_object=7\n")
    (tmp_path / "rdma.max").write_text("mlx4_0 hca_handle=3 hca_object=max\n")
    found = decode(V2, encode(V2, {"rdma": rdma(str(tmp_path))}))["rdma"]
    assert found == {
        "current": [
            {"device": "mlx4_0", "hca_handles": 2, "hca_objects": 2000},
            {"device": "ocrdma1", "hca_handles": 0, "hca_objects": 7},
        ],
        "limit": [{"device": "mlx4_0", "hca_handles": 3, "hca_objects": 0xFFFFFFFF}],
    }


def test_no_rdma_controller_is_nothing(tmp_path):
    assert rdma("") == rdma(str(tmp_path)) == {"current": [], "limit": []}
