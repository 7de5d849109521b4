"""What is measured over the network: any server that speaks a known protocol, ours among them."""
