"""The modules that the processes of a node run."""

RECEIVER = "dicom_node.receiver.__main__"
WORKER = "dicom_node.worker.__main__"
API = "api.__main__"
DECODERS = "dicom_node.decoder.common_server"
DATABASE = "dicom_node.commands.node_database"
