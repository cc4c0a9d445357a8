"""configs/ and data_prep/ are found in a checkout and in an installed wheel."""

from pathlib import Path

from dsnet_med import resources


def test_a_checkout_uses_the_folders_at_its_root():
    root = Path(__file__).parents[1]
    assert resources.configs() == root / "configs"
    assert resources.data_prep() == root / "data_prep"
    assert resources.configs().is_dir()
    assert resources.data_prep().is_dir()


def test_a_wheel_beside_another_package_s_configs_folder_uses_its_own(tmp_path, monkeypatch):
    """Any package may drop a folder named configs into site-packages."""
    package = tmp_path / "site-packages" / "dsnet_med"
    (package.parent / "configs").mkdir(parents=True)
    monkeypatch.setattr(resources, "PACKAGE", package)
    assert resources.configs() == package / "shipped" / "configs"
    assert resources.data_prep() == package / "shipped" / "data_prep"
