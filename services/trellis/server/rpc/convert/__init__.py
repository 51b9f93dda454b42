"""Between protobuf and the domain, one file a noun; the only place that knows both."""
