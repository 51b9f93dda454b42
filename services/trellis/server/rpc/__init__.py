"""The gRPC surface: servicers, interceptors, and the conversion between protobuf and domain."""
