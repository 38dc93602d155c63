"""What the editor and its users keep, and the commands for them: users, credentials, flows of a running gateway."""
