"""What a person types: `lifeboat …`. The commands read and ask; what happens is decided in the workflows."""
