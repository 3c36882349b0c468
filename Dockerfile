# CPU only, without root:
#   docker build -t huscf .
#   docker run --rm --user "$(id -u):$(id -g)" -v "$PWD:/workspace" huscf fit --config quickstart
FROM python:3.12-slim

COPY . /src
# libgomp runs torch's threads; the extras decode medical pictures and connect sites.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends libgomp1 \
    && rm -rf /var/lib/apt/lists/* \
    && pip install --no-cache-dir torch torchvision torchaudio \
        --index-url https://download.pytorch.org/whl/cpu \
    && pip install --no-cache-dir "/src[dicom,nifti,deploy]" \
    && rm -rf /src \
    && useradd --create-home huscf \
    && install --directory --owner huscf /workspace

USER huscf
WORKDIR /workspace
ENV HOME=/tmp HUSCF_DATA=/workspace/data HUSCF_CACHE=/workspace/.huscf-cache MPLCONFIGDIR=/tmp/matplotlib
ENTRYPOINT ["huscf"]
CMD ["--help"]
