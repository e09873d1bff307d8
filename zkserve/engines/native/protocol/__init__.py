"""The protocol of docs/native-protocol.md in plain Python: descriptions, their gate, verifiers."""
