"""What is kept between two builds, so that a build reads only what changed."""
