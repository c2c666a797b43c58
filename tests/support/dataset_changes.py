"""Changes of the attributes of a dataset."""

from collections.abc import Mapping

from pydicom import Dataset


def change_attributes(dataset: Dataset, changes: Mapping[str, object]) -> None:
    """Set the values of attributes by keyword; None removes an attribute.

    Raises:
        KeyError: An attribute to remove is absent.
    """
    for keyword, value in changes.items():
        if value is None:
            del dataset[keyword]
        else:
            setattr(dataset, keyword, value)
