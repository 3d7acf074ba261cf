"""What several tests, tools and benchmarks need."""
