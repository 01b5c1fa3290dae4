# For the image of a region's machines: each enrols when it first starts (docs/operators.md,
# "Enrolling machines"). Its name is the host's. data_dir must be empty in the image.
region    = "us-east"
zone      = "a"
rack      = "r12"
data_dir  = "/var/lib/starling"
bind      = "0.0.0.0"
advertise = "10.0.0.5"
servers   = ["10.0.0.2:7471", "10.0.0.3:7471", "10.0.0.4:7471"]

# The output of `starling node token create`, readable by the service's user only.
join_token_file = "/etc/starling/join-token"

machine {
  enabled = true
}
