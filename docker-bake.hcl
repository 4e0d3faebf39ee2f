# docker buildx bake                     the worker with the embedded family, for CUDA 13
# PROFILE=sd15-v3 docker buildx bake     the worker with Stable Diffusion 1.5 and AnimateDiff v3
# docker buildx bake all                 both CUDA versions
# docker buildx bake app                 the page in the browser, with Gradio
#
# tests/image/run.sh builds the target cuda13 with the profile shapeworld. Nobody has built or run cuda12-8 or another
# profile yet.

variable "IMAGE" {
  default = "animatediff-serverless"
}

variable "PROFILE" {
  default = "shapeworld"
}

variable "VERSION" {
  default = "dev"
}

variable "REVISION" {
  default = "unknown"
}

variable "BASE_IMAGE" {
  default = "python:3.11-slim-bookworm"
}

variable "ALLOW_UNPINNED" {
  default = "0"
}

group "default" {
  targets = ["cuda13"]
}

group "all" {
  targets = ["cuda13", "cuda12-8"]
}

target "common" {
  context    = "."
  dockerfile = "Dockerfile"
  target     = "worker"
  platforms  = ["linux/amd64"]
  args = {
    BASE_IMAGE     = BASE_IMAGE
    MODELS_PROFILE = PROFILE
    ALLOW_UNPINNED = ALLOW_UNPINNED
    VERSION        = VERSION
    REVISION       = REVISION
  }
  secret = ["type=env,id=hf_token,env=HF_TOKEN"]
}

# torch 2.13.0 for CUDA 13.0. It needs NVIDIA driver 580 or later.
target "cuda13" {
  inherits = ["common"]
  tags     = ["${IMAGE}:${VERSION}-${PROFILE}"]
}

# The page in the browser, with the models of the profile. Nobody has built it yet.
target "app" {
  inherits = ["common"]
  target   = "app"
  tags     = ["${IMAGE}-app:${VERSION}-${PROFILE}"]
}

# torch 2.10.0 and xformers 0.0.34 for CUDA 12.8. They need NVIDIA driver 570 or later. The tests run with torch 2.13.0.
target "cuda12-8" {
  inherits = ["common"]
  args = {
    REQUIREMENTS = "requirements-cuda12.8.lock"
  }
  tags = ["${IMAGE}:${VERSION}-${PROFILE}-cuda12.8"]
}
